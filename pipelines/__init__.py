"""The plant: Ray Data and Ray Train graphs, storage, video files, tracking, configuration."""
