"""
Tells twistd of the emulator.

An installation puts this file into C{twisted/plugins}, where twistd looks; it
stays small, since twistd imports every plugin at each of its starts.
"""

from twisted.application.service import ServiceMaker

compute_modules = ServiceMaker(
    "twisted-cm",
    "twisted_cm.twistd",
    "A local emulator of Palantir Foundry's compute modules.",
    "compute-modules",
)
