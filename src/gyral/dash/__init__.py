"""The pages: what is in a project folder, drawn. They only read, and every page has a `.json` twin with the same data.

From disk to screen:
    records.py   one file on disk → one struct, damage tolerated
    gather.py    a folder → the plain data of one page
    formats.py   a value → text for a person
    charts.py    numbers → inline SVG
    ring.py      the five verbs → inline SVG
    search.py, compare.py, params.py …   the data of one page each
    figures.py   page data → charts
    pages.py     the ASGI application: page data → HTML or JSON
    app.py       its public name
    export.py    the same pages as files
"""
