"""Markdown as rows of styled text, for one widget to show.

Textual's own Markdown widget makes a widget of every paragraph, list item and table cell. Each of these costs
milliseconds to mount, and its share of every layout of the screen: on two cores of a server, an answer of 10,000 tokens
took 9 s to open, and 57 ms in every layout after that. As rows it takes 0.3 s and 1.6 ms.

    sections.py   cuts growing text where a new block begins, so that only the last section is rendered anew
    rows.py       blocks to rows of a given width: paragraphs, lists, quotes, headings, rules
    inline.py     what stands within a paragraph: emphasis, code, links
    code.py       highlighted code
    table.py      tables

CommonMark is parsed by markdown-it-py, code by Pygments. HTML is text.
"""
