"""A diffusers pipeline for DiffMoE models; written by ``diffmoe convert --layout diffusers``.

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    pipe(class_labels=["Forest", "River"]).images[0].save("forest.png")

A model that takes prompts needs the package ``tokenizers``: ``pipe(prompt="a red robot").images``. A model with a refiner has
it as ``pipe.transformer_2``, which computes the steps that begin at the time ``pipe.transformer.config.refiner["from"]`` or later.
"""

import json

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput


class DiffMoEPipeline(DiffusionPipeline):
    """Images of classes or prompts, or latents where the model generates latents."""

    _optional_components = ["transformer_2"]

    def __init__(self, transformer, scheduler, transformer_2=None):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, transformer_2=transformer_2)
        if (transformer_2 is None) != (transformer.config.refiner is None):
            raise ValueError("transformer_2 is the refiner that the configuration of transformer describes; give both or none")

    def _model(self, time):
        """The transformer of the step that begins at a time; with some slack, because times are rounded."""
        if self.transformer_2 is None or time < self.transformer.config.refiner["from"] - 1e-5:
            return self.transformer
        return self.transformer_2

    def _prompts(self, prompts, model=None):
        """Encoded prompts, as a transformer takes them."""
        model = model or self.transformer
        text = self.transformer.text
        begin, split, end = self._tokenizer()
        length = text["max_length"]
        rows = [[begin, *split(prompt)[: length - 2], end] for prompt in prompts]
        device = model.device
        # Padding is masked, so any token will do.
        ids = torch.tensor([row + [end] * (length - len(row)) for row in rows], device=device)
        return model.encode(ids, torch.tensor([len(row) for row in rows], device=device))

    def _tokenizer(self):
        """The begin token, a function from a prompt to its tokens, and the end token."""
        from tokenizers import Tokenizer

        text = self.transformer.text
        # As nested dictionaries of the standard library, whatever the configuration made of them.
        document = json.loads(json.dumps(text["tokenizer"]))
        document |= {"truncation": None, "padding": None}
        whole = Tokenizer.from_str(json.dumps(document))
        # What somebody types is never a special token.
        plain = Tokenizer.from_str(json.dumps(document | {"added_tokens": [], "post_processor": None}))
        ends = whole.encode("").ids
        usual = ends if len(ends) == 2 else [whole.token_to_id("[CLS]"), whole.token_to_id("[SEP]")]
        named = text.get("special_tokens") or {}
        begin, end = (
            whole.token_to_id(named[key]) if named.get(key) else other for key, other in zip(("begin", "end"), usual)
        )
        if begin is None or end is None:
            raise ValueError("the tokenizer does not define begin and end tokens, and the text section does not name them")
        return begin, lambda prompt: plain.encode(prompt, add_special_tokens=False).ids, end

    def _rows(self, class_labels, count):
        """Rows of every label table, from names, numbers, lists of them, or a dict by table; missing ones are unconditional."""
        tables = self.transformer.tables
        if class_labels is not None and not tables:
            raise ValueError("this model has no labels; give it a prompt")
        if not isinstance(class_labels, dict):
            class_labels = {} if class_labels is None else {tables[0]["name"]: class_labels}
        unknown = set(class_labels) - {table["name"] for table in tables}
        if unknown:
            raise ValueError(f"unknown label tables {sorted(unknown)}: expected {[table['name'] for table in tables]}")
        given = {name: list(of) if isinstance(of, (list, tuple)) else [of] for name, of in class_labels.items()}
        count = max([count, *(len(of) for of in given.values())])
        rows = []
        for table in tables:
            names = given.get(table["name"], [table["null"]])
            of = [self._row(table, names[i % len(names)]) for i in range(count)]
            rows.append(torch.tensor(of, device=self.transformer.device))
        return rows, count

    def _row(self, table, label):
        names = table.get("values") or []
        if isinstance(label, str):
            if label not in names:
                raise ValueError(f"unknown {table['name']} {label!r}")
            return names.index(label)
        if not 0 <= label <= table["null"]:
            raise ValueError(f"{table['name']} must be 0–{table['null']} ({table['null']} is unconditional), got {label}")
        return int(label)

    @torch.no_grad()
    def __call__(
        self,
        class_labels=None,
        num_images: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        routing: str = "token",
        output_type: str = "pil",
        return_dict: bool = True,
        prompt: str | list[str] | None = None,
        negative_prompt: str = "",
    ):
        """Draws one image of each prompt and label, at least ``num_images``.

        ``class_labels``: names or numbers; a dict for a model with several label tables. ``prompt``, ``negative_prompt``: of a
        model that takes prompts; a list is repeated. ``routing="pool"`` is the paper's rule, under which the images of a batch
        compete. ``latents``: the initial noise ``[B, C, height, width]``. ``output_type``: pil, np, pt, or latent, which is all
        that a model of latents returns.
        """
        model, defaults = self.transformer, self.transformer.config.defaults or {}
        steps = defaults.get("steps", 50) if num_inference_steps is None else num_inference_steps
        guidance = defaults.get("guidance", 1.5) if guidance_scale is None else guidance_scale
        if model.text is None and (prompt is not None or negative_prompt):
            raise ValueError("this model takes no prompts; give it class_labels")
        given = [prompt or ""] if isinstance(prompt, str | None) else list(prompt)
        rows, count = self._rows(class_labels, max(num_images, len(given)) if latents is None else len(latents))
        nulls = [torch.full_like(of, table["null"]) for of, table in zip(rows, model.tables)]
        shape = (count, model.in_channels, *model.sample_size)
        # Each transformer has an encoder of its own.
        texts = null_texts = {}
        models = [model] if self.transformer_2 is None else [model, self.transformer_2]
        if model.text is not None:
            texts = {of: self._prompts([given[i % len(given)] for i in range(count)], of) for of in models}
            null_texts = {of: self._prompts([negative_prompt] * count, of) for of in models}
        if latents is None:
            device = "cpu" if generator is None else generator.device
            latents = torch.randn(shape, generator=generator, device=device)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents must have shape {shape}, got {tuple(latents.shape)}")
        z = latents.to(model.device, model.dtype)
        is_flow = model.config.t_kind == "flow"
        if is_flow:
            # Noise at sigma 1; the model's time runs from noise, 0, to data, 1.
            self.scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], device=model.device)
        else:
            self.scheduler.set_timesteps(steps, device=model.device)
        for t in self.progress_bar(self.scheduler.timesteps):
            time = 1 - t / self.scheduler.config.num_train_timesteps if is_flow else t
            times = torch.full((len(z),), float(time), device=z.device)
            model = self._model(float(time))
            out = model(z, times, rows, routing, prompts=texts.get(model)).sample[:, : model.in_channels]
            if guidance != 1:
                null = model(z, times, nulls, routing, prompts=null_texts.get(model)).sample[:, : model.in_channels]
                out = null + guidance * (out - null)
            if is_flow and not model.reversed:
                velocity = (out - z) / (1 - time) if model.predicts_data else out
                out = -velocity
            z = self.scheduler.step(out, t, z, return_dict=False)[0]
        images = z
        if model.config.space == "pixels" and output_type != "latent":
            images = (z / 2 + 0.5).clamp(0, 1)
            if output_type != "pt":
                images = images.permute(0, 2, 3, 1).float().cpu().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
