"""What holds where nothing else is asked for: the same for the command line, the server and the Python API."""

SCHEDULER = "topk"
BLOCK_LENGTH = 32
CACHE = "auto"
INPUT_STATE = "auto"  # what the model was trained with
MAX_ROWS = 16  # requests that run side by side in one batch
MEMORY_FRACTION = 0.8  # share of the memory beside the weights that keys and values may take
TENSOR_PARALLEL = 1  # processes that a model is split over
