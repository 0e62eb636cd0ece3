"""Jobs before serving: compression with its actors and tasks, and calibration of cascades."""
