#!/usr/bin/python3
"""Stage 5: puts the legacy switches back in the place of Open vSwitch bridges: the reverse of stage 1.

    5_restore.py SWITCH…
"""

import sys

import campus

if __name__ == '__main__':
    campus.main(lambda: campus.restore(*sys.argv[1:]))
