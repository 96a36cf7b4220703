"""A finished run as one page that opens from disk; :mod:`recbole_sda.report.page.write` makes it."""
