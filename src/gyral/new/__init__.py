"""What `gyral new` writes: packages that run as they are, to be changed.

plugin.py   the plug-in package: the folder `template` under another name
template/   a whole package that is called `my_plugin`: data, not a part of gyral; lint and types hold it like the rest
"""
