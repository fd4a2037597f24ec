#!/usr/bin/python3
"""Stage 2: Fairlead adopts the bridges of a group, which forward by themselves still, and steers what is for VIPs.

    2_steer.py core1|access|core2
"""

import os
import sys

import campus


def steps(group):
    campus.apply(group, 'steer')
    # Spanning tree of the switches that are legacy still goes through these, also when they are managed.
    for switch in campus.GROUPS[group][0]:
        campus.fairlead('switch', 'bpdus', campus.SWITCHES[switch][0], 'forward')
    if group == 'core1':  # all traffic crosses it, so the VIP can be served from here on
        campus.fairlead('vip', 'apply', '-f', os.path.join(campus.HERE, 'web.yml'), '--wait', '5s')


if __name__ == '__main__':
    campus.main(lambda: steps(sys.argv[1]))
