"""The tests. Before torch is imported: threads that wait give their core to the tests beside them, and do not spin."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
