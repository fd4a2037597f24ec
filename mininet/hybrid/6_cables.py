#!/usr/bin/python3
"""Stage 6: puts the spare cables of a managed switch in, or pulls them.

    6_cables.py in|out SWITCH

The last legacy switch that is replaced has nobody around it who runs spanning tree. Its spare cables, those that do not lead
to core1, stay out until it is managed, and are pulled before it is rolled back: in between nobody would keep the circle open.
"""

import sys

import campus

if __name__ == '__main__':
    def steps():
        change, switch = sys.argv[1:]
        if change == 'in':
            campus.plug_all(switch)
        else:
            campus.unplug_spare(switch)
        print(f'unplugged: {", ".join(campus.unplugged(switch)) or "none"}')

    campus.main(steps)
