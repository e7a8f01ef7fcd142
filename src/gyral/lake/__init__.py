"""Where events rest: versioned tables, entered only through one commit protocol. Lance inside; nobody else imports lance."""
