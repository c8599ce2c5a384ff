"""iLLaDA-8B, Base and Instruct (GSAI-ML): Llama with fewer key/value heads, attending both ways, its head tied.

The mask is token 5, which neither config nor tokenizer declares.
"""

from unmask.models import llama

MODEL_TYPE = None  # of no published config that was seen
ARCHITECTURES = ("ILLaDAForCausalLM",)
MASK_TOKEN = 5
STOP_TOKENS = ()
TOKENIZER = "PreTrainedTokenizerFast"

SUPPORTED = llama.SUPPORTED

tensor_names = llama.tensor_names

architecture = llama.architecture
