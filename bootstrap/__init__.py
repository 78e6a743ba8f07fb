"""From a sealed file to a content key: policies, pins, approval, and the unlock process."""
