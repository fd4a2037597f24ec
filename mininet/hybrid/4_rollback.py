#!/usr/bin/python3
"""Stage 4: takes a group of switches back to what they were before Fairlead: Open vSwitch that forwards by itself.

    4_rollback.py core2|access|core1            in this order: the last one that was migrated goes first
    4_rollback.py core2 managed                 only its last wave: back to steer
"""

import sys

import campus


def steps(group, wave='steer'):
    if group == 'core1':
        campus.fairlead('vip', 'delete', 'web')  # there is no switch left to serve it
    campus.roll_back(group, wave)


if __name__ == '__main__':
    campus.main(lambda: steps(*sys.argv[1:]))
