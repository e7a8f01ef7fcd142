"""How ranks compute one step together: strategies behind one seam, composed by a mesh of named axes."""
