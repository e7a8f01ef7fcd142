"""Where events rest: versioned tables, entered only through one commit protocol. Lance inside; nobody else imports lance."""

import os

os.environ.setdefault("LANCE_LOG", "error")  # Lance warns of a compaction that lost a race, which is no news to anybody
