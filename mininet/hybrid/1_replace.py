#!/usr/bin/python3
"""Stage 1: replaces legacy switches by Open vSwitch bridges that forward by themselves.

    1_replace.py SWITCH…

The work of a person in the wiring closet; Fairlead has no part in it.
"""

import sys

import campus

if __name__ == '__main__':
    def steps():
        campus.replace(*sys.argv[1:])
        for switch in sys.argv[1:]:
            out = campus.unplugged(switch)
            print(f'{switch} is Open vSwitch now' + (f'; {", ".join(out)} stay unplugged until it is managed' if out else ''))

    campus.main(steps)
