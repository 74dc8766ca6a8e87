"""Lasting campaigns: damaged files and texts (``make fuzz``), kills, full disks and rivals (``make chaos``)."""
