#!/usr/bin/python3
"""Stage 3: Fairlead forwards for the switches of a group.

    3_manage.py core1|access|core2
"""

import sys

import campus


if __name__ == '__main__':
    campus.main(lambda: campus.apply(sys.argv[1], 'managed'))
