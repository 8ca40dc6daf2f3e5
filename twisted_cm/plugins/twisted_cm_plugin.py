"""Register the emulator with twistd.

An installation puts this file into ``twisted/plugins``, where twistd looks for plugins. twistd imports every plugin
each time it starts, so this file names the implementation instead of importing it.
"""

from twisted.application.service import ServiceMaker

compute_modules = ServiceMaker(
    "twisted-cm",
    "twisted_cm.twistd",
    "A local emulator of Palantir Foundry's compute modules.",
    "compute-modules",
)
