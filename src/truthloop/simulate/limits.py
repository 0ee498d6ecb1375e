"""What a run may be asked for, and what it does unasked; free of imports, so that the command line is quick."""

# Both need no file, so they are there wherever a worker is.
MODELS = ("opencv_faces", "opencv_people")
JOBS, CONCURRENCY, PATIENCE_SECONDS = 100, 16, 120.0
# One for each millionth of a second, by which a job of the run is known.
MAX_JOBS = 1_000_000
MAX_CONCURRENCY = 512
