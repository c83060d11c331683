"""Words for servers that take text only: frequent ones, which most tokenizers have as one token each."""

from __future__ import annotations

_TEXT = """
    the of and to in is that for it as was with be by on not he his but at are this have from or had an they which
    one you were all her she there would their we him been has when who will no more if out so up said what its
    about than into them can only other time new some could these two may first then do any like my now over such
    our man me even most made after also did many must before back through years where much your way well down
    should because long each just state people those too good make world still see own men work here get both
    between life being under three never know last another while us off might great go come since against right used
    house take place same small found day part left number water end does every think head high side eyes home night
    four light city always far
"""
WORDS = tuple(_TEXT.split())
