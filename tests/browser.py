"""The browser without a window that tests drive, where this machine has one."""

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
