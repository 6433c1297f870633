"""One page on what happened, from the verdicts on the claims down to a single lane: ``python -m bench report``.

The page is one HTML file that needs no network; everything on it is made from records. ``content.py`` says what is on
it, ``gallery.py`` finds frames and lanes, ``results.py`` the table, ``page.*`` is what it looks like.
"""
