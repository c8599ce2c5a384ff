"""The settings of `unmask train-policy`."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from unmask.evals.tasks import EMBEDDED, TASKS
from unmask.settings import BlockLength, ModelSettings, Several

TEACHERS = (
    "threshold:threshold=0.95",
    "threshold:threshold=0.85",
    "threshold:threshold=0.7",
    "threshold:threshold=0.5",
)

# What `--recipe paper` has instead of the defaults (arXiv 2512.09106, section 4; the number of batches is ours).
PAPER: dict[str, Any] = {
    "block_length": (32,),
    "alpha": 1.0,
    "confidence": "probability",
    "teacher": (),
    "imitation": 0,
    "batches": 1000,
    "learning_rate": 3e-5,
    "warmup": 50,
}


class TrainPolicySettings(ModelSettings):
    """Learn which tokens to reveal, by reinforcement learning, or continue an interrupted run.

    The defaults are the recipe of the shipped policy full-diffusion. With `accelerate launch -m unmask train-policy`
    several processes and machines share the work.
    """

    GROUPS: ClassVar[dict[str, str]] = {
        "what to learn": "out recipe task block_length alpha reward any_speed observation confidence mode "
        "remask write tokens sees top_k",
        "warm start": "imitation teacher teacher_block verification initial start",
        "reinforcement learning": "batches prompts group updates steering epsilon learning_rate warmup seed",
        "run": "rows save_every tensorboard problems",
        **ModelSettings.GROUPS,
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "unmask train-policy --out runs/mine",
        "unmask train-policy --out runs/mine --task sudoku --alpha 1",
        "unmask train-policy --out runs/paper --recipe paper",
    )

    out: Path = Field(Path("runs/policy"), description="folder of the policy, its card, the log and the training state")
    recipe: Literal["default", "paper"] = Field(
        "default",
        description="paper: the values of arXiv 2512.09106 for all flags that are not given, without a warm start",
    )
    task: Several[str] = Field((), description=f"tasks: {', '.join(TASKS)}; by default {' and '.join(EMBEDDED)}")
    block_length: Several[BlockLength] = Field(
        ("full",), min_length=1, description="tokens per block; full is one block, full diffusion; several are mixed"
    )
    observation: Literal["generation", "block"] = Field(
        "generation", description="what the policy sees: the generation region, or the block, which suits every cache"
    )
    mode: Literal["bernoulli", "dpls"] = Field("bernoulli", description="how choices are drawn from logits")
    alpha: float = Field(5.0, ge=0, description="what speed is worth in the reward; 0 is nothing")
    reward: Literal["multiplicative", "additive"] = Field("multiplicative", description="how speed enters the reward")
    any_speed: bool = Field(False, description="train one policy for all speeds; it sees the wanted one")
    confidence: Literal["probability", "log-odds"] = Field(
        "log-odds", description="how the policy sees the model's confidence; log-odds tell 0.99 from 0.999"
    )
    teacher: Several[str] = Field(
        TEACHERS,
        description="schedulers that give the answers of the warm start, to learn from in hindsight; by default four "
        "thresholds, from 0.95 to 0.5",
    )
    teacher_block: int = Field(
        0, ge=0, description="block length of the teachers, whatever the policy's; 0 is the policy's own"
    )
    remask: bool = Field(False, description="let the policy take back what it revealed; for --mode bernoulli")
    write: bool = Field(
        False, description="let the policy write its proposals over what it revealed; for --mode bernoulli"
    )
    tokens: int = Field(0, ge=0, description="token ids that the policy tells apart; 0, as the paper's, reads none")
    sees: Several[Literal["positions", "stops", "hidden"]] = Field(
        (),
        description="what the policy sees beside the paper's: positions, where in the answer each position is; stops, "
        "which proposals are an end of text; hidden, the model's last hidden states, which makes it this model's alone",
    )
    top_k: int = Field(1, ge=1, description="how many of the highest probabilities of each position the policy sees")
    verification: int = Field(
        0, ge=0, description="first batches, in which a policy that reads tokens learns which of them go together"
    )
    initial: str = Field("", description="policy to continue from: a shipped one, or a folder")
    steering: bool = Field(False, description="add an expert's rollout to each group, as the paper for full diffusion")
    imitation: int = Field(180, ge=0, description="batches of supervised warm start; the paper has none")
    start: float = Field(-2.0, description="logit of all positions before training")
    group: int = Field(8, ge=1, description="rollouts of one problem that are compared with each other")
    prompts: int = Field(16, ge=1, description="problems per batch and process")
    batches: int = Field(60, ge=1, description="batches of rollouts")
    updates: int = Field(2, ge=1, description="updates on each batch")
    epsilon: float = Field(0.5, gt=0, lt=1, description="how far an update may move the odds of a choice")
    learning_rate: float = Field(3e-5, gt=0, description="highest learning rate")
    warmup: int = Field(20, ge=1, description="batches until the learning rate is at its highest")
    seed: int = Field(0, description="seed of weights, problems and choices")
    rows: int = Field(64, ge=1, description="rollouts that run side by side")
    save_every: int = Field(50, ge=1, description="batches between savings")
    tensorboard: bool = Field(False, description="also log for TensorBoard, which must be installed")
    problems: int = Field(500, ge=0, description="held-out problems per row of the final card; 0 writes no card")

    @model_validator(mode="before")
    @classmethod
    def _of_the_recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The paper's values for what was not given."""
        return {**PAPER, **given} if given.get("recipe") == "paper" else given
