#!/usr/bin/python3
"""Takes the campus away, with all that runs in it."""

import os
import sys

import campus

if __name__ == '__main__':
    if os.geteuid() != 0:
        sys.exit('network namespaces need root: use sudo')
    campus.remove()
