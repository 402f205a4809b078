"""Studies: methods compared on the same streams of tasks, cell by cell, so that nothing is trained twice.

A study is a graph of *cells* (``cells.py``): a rendered data set, one expert, one network after one task, one table of
confusions. Each is addressed by everything that its content depends on, so cells are shared by methods, orders and
studies, and an interrupted study goes on where it stopped.
"""
