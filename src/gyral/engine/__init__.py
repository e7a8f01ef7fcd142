"""Where work runs: one seam, `local` and `ray` behind it."""
