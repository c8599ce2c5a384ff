"""Offline use: answer prompts, watch the canvas fill, score an answer. `python examples/offline.py`."""

from unmask import LLM

# The embedded model, which solves word problems and small Sudokus; a real one is LLM("GSAI-ML/LLaDA-8B-Instruct").
MODEL = "llada-nano"
QUESTIONS = [
    "Ann has 5 coins. Ann finds 7 more. Ann loses 3. How many coins does Ann have?",
    "Tom has 1 pears. Tom gets 8 more. Tom finds 6 more. How many pears does Tom have?",
]


def main() -> None:
    llm = LLM(MODEL)
    conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]

    # All conversations share one batch. The answers come in the order of the questions.
    for output in llm.chat(conversations, scheduler="threshold", block_length=32):
        figures = output.diffusion
        print(f"{output.text!r}: {len(output.token_ids)} tokens in {figures.forward_passes} forward passes")

    # A step per forward pass, with the tokens that it revealed. This scheduler reveals four tokens per pass.
    for step in llm.stream(conversations[0], scheduler={"name": "topk", "n": 4}):
        revealed = [llm.model.tokenizer.token_text(reveal.token_id) for reveal in step.revealed]
        print(f"step {step.index}: {revealed}")

    # How probable is the right answer, how probable a wrong one? Every token of the completion is masked.
    for completion in ("5 + 7 = 12\n12 - 3 = 9\n#### 9", "5 + 7 = 12\n12 - 3 = 8\n#### 8"):
        (score,) = llm.score(conversations[0], completion)
        assert score.patterns is not None
        print(f"{completion!r}: log-probability {score.patterns[0].sum:.2f}")


if __name__ == "__main__":
    main()
