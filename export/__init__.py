"""From a trained checkpoint to an avatar file, and the reference network that judges both.

Needs torch; `pip install gt-infer[export]`. The apps that show a head need none of this.
"""
