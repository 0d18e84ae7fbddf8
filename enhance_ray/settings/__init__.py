"""What the package can be told, checked where it is told.

schema      `settings`, the decorator that makes a class a group of settings
ranges      what a number or a pair of numbers may be, as types
trees       settings as YAML, and as plain dicts, lists and scalars
messages    what is wrong with a setting, in a sentence that says what would do
options     what a user may ask of one recording
"""
