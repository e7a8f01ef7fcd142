"""Where work runs: one seam, `local` behind it."""
