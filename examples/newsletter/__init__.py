"""A newsletter goes to a thousand recipients while its worker is killed again and again: each gets exactly one mail.

Read ``app.py`` first: it has the tasks. ``db.py`` holds the application's own table, ``mail.py`` sends mail and
stands for the provider that takes it, ``web.py`` stands for the web application. ``python -m examples.newsletter``
plays it all through and proves what it says.
"""
