"""Workers that may be killed, hang, be cut off and come back: membership, an own reduction, healing; what is learned stays."""
