"""Pretraining of the language model: `python -m worker pretrain --out DIR`.

    worlds ─▶ states ─▶ lines ─▶ batches ─▶ train ─▶ a directory that --model, --guidance take
    (environments,  (texts,   (prompts,        │
     teachers)       right     losses)         └─▶ evaluate: does it say what is right, does it obey?
                     actions)

Everything is generated, from one seed; `python -m worker pretrain --evaluate DIR` measures a directory.
"""
