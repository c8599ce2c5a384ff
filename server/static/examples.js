// What one click starts; `scheduler` is what an example has lane B use. The embedded models know a few kinds of task; any other model gets questions of general interest.

const NANO = {
  note: "llada-nano is a tiny model. It knows two tasks only: word problems about one running total, and 6 × 6 Sudokus. Anything else gives nonsense.",
  examples: [
    { label: "Word problem", mode: "messages", max_tokens: 42, block_length: 42,
      prompt: "Tom has 4 cards. Tom sells 1. Tom finds 3 more. Tom finds 2 more. Tom loses 6. Tom wins 5 more. How many cards does Tom have?" },
    { label: "Sudoku", mode: "messages", max_tokens: 42, block_length: 42,
      prompt: "Sudoku\n _ _ 2 5 1 _\n _ _ _ 2 6 4\n 1 6 5 3 4 _\n _ _ 4 1 _ 6\n _ _ 6 _ 2 _\n _ 2 1 _ 3 5" },
    { label: "Fill gaps", mode: "canvas", max_tokens: 42, block_length: 42,
      prompt: "Mia has 4 pears. Mia finds 9 more. Mia gives away 6. Mia gets 8 more. Mia sells 7. How many pears does Mia have?",
      canvas: "4 + 9 = 13\n[MASK:5]\n7 + 8 =[MASK]\n[MASK:5]\n#### 8" },
  ],
  columns: (prompt) => (/^\s*sudoku/i.test(prompt) ? 7 : 6), // tokens per line of its answers, the newline included
};

const TOTAL = "Leo has 18 coins. 1. Leo gives away 6. 2. Leo gives away 1. 3. Leo wins 1 more. 4. Leo drops 5. 5. Leo buys 7 more. 6. Leo gets 7 more. 7. Leo gives away 2. How many coins does Leo have?";
const TRACE = {
  note: "llada-trace is a tiny model of running totals in five to eight numbered steps. In one block most schedulers make its answers too short; the policy traces does not. Anything else gives nonsense.",
  examples: [
    { label: "One block", mode: "messages", max_tokens: 128, block_length: 128, prompt: TOTAL },
    { label: "Blocks of 32", mode: "messages", max_tokens: 128, block_length: 32, prompt: TOTAL },
    { label: "Fill gaps", mode: "canvas", max_tokens: 128, block_length: 128, prompt: TOTAL,
      canvas: "now in step 1: 12\nnow in step 2:[MASK]\nnow in step 3:[MASK]\nnow in step 4:[MASK]\nnow in step 5:[MASK]\nnow in step 6:[MASK]\nnow in step 7:[MASK]\n####[MASK:20]" },
  ],
  columns: () => 0,
};

const TURNS = "The clock shows 3. 1. Ann turns it 5 back. 2. Ann turns it 9 back. 3. Ann turns it 9 on. 4. Ann turns it 8 back. 5. Ann turns it 1 on. What does the clock show?";
const CLOCK = {
  note: "llada-clock is a tiny model of a clock that is turned on and back in five to eight numbered steps. In one block most schedulers make its answers too short; the policy traces does not. Anything else gives nonsense.",
  examples: [
    { label: "One block", mode: "messages", max_tokens: 128, block_length: 128, prompt: TURNS },
    { label: "Blocks of 32", mode: "messages", max_tokens: 128, block_length: 32, prompt: TURNS },
  ],
  columns: () => 0,
};

const MICRO = {
  note: "llada-micro is a small model of long word problems, lists, JSON from sentences, Sudokus and small Python functions. Asked anything else, it says so. In one block most schedulers answer a long word problem at once, and often wrongly; the policy long-answers does not.",
  examples: [
    { label: "JSON", mode: "messages", max_tokens: 64, block_length: 32,
      prompt: "Write as JSON with the keys name, age, hobbies. Mia is 34 years old and lives in Oslo. Mia, a nurse, likes chess, golf and music and has a cat." },
    { label: "One block", mode: "messages", max_tokens: 128, block_length: 128, scheduler: "policy:policy=long-answers",
      prompt: "Sam starts with 2 books, drops 2, gets 1 more, gives away 1, buys 2 more, triples the books, drops 2 and doubles the books. Count the books." },
    { label: "Anything", mode: "messages", max_tokens: 64, block_length: 32, prompt: "What is the capital of France?" },
  ],
  columns: () => 0,
};

const ANY = {
  note: "",
  examples: [
    { label: "Question", mode: "messages", max_tokens: 128, block_length: 32,
      prompt: "A farmer has 17 sheep. All but 9 run away. How many are left? Explain in two sentences." },
    { label: "Code", mode: "messages", max_tokens: 128, block_length: 32,
      prompt: "Write a Python function that tells whether a word is a palindrome." },
    { label: "Fill gaps", mode: "canvas", max_tokens: 128, block_length: 32,
      prompt: "", canvas: "Once upon a time, there was[MASK:12] who lived by the sea. One day[MASK:16], and that is how it ended." },
  ],
  columns: () => 0, // as many as there is room for
};

const KNOWN = { "llada-nano": NANO, "llada-trace": TRACE, "llada-clock": CLOCK, "llada-micro": MICRO };

export const examplesFor = (model) => KNOWN[model] ?? ANY;

/** Values of options that are texts, where the server has something to choose from. */
export const CHOICES = {
  policy: ["any-speed", "block-32", "full-diffusion", "long-answers", "traces", "traces-32"],
};
