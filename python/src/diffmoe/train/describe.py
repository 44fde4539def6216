"""What a run trains, as the document that files have in their header and ``diffmoe.Config`` reads."""


def kind(run):
    return run.model.kind if run.model.num_experts else "dense"


def params(run):
    m = run.model
    p = {k: getattr(m, k) for k in ("input_size", "in_channels", "patch_size", "depth", "hidden_size",
                                    "num_heads", "mlp_ratio", "learn_sigma")}
    p["use_swiglu"] = m.use_swiglu
    if m.qk_norm:
        p["qk_norm"] = True
    if m.prediction != "velocity":
        p["prediction"] = m.prediction
    if m.detail_head:
        p["detail_head"] = {"channels": m.detail_head, **({"phase": True} if m.detail_phase else {})}
    if kind(run) != "dense":
        p["MoE_config"] = {"num_experts": m.num_experts, "capacity": m.capacity, "n_shared_experts": m.n_shared_experts,
                           "init_MoeMLP": False, "interleave": m.interleave}
    return p


def document(run, labels, card=None, text=None):
    """The document of a run with these label tables.  ``text``: the section of a text-conditioned model (see ``prompts``)."""
    p = params(run)
    p["num_classes"] = len(labels[0].values) if labels else 0
    entries = []
    for l in labels:
        e = {"name": l.name, "tensor": l.tensor, "null": len(l.values), "values": list(l.values)}
        if l.groups:
            e["groups"] = list(l.groups)
        entries.append(e)
    s = run.sample
    more = {"text": text} if text else {}
    spin = {"cycle_spin": s.cycle_spin} if s.cycle_spin else {}
    return {"format": 1, "name": run.name, "kind": kind(run), "t_kind": run.train.objective,
            "time_scale": run.model.time_scale, "space": "latents" if run.data.kind == "latents" else "pixels",
            "params": p, "labels": entries,
            "defaults": {"steps": s.steps, "guidance": s.guidance, "solver": s.solver, **spin}, "card": card or {}, **more}
