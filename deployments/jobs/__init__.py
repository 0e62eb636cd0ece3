"""Work before serving: the compression job, its actors and tasks, calibration of cascades."""
