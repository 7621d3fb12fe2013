"""The model card of an exported client."""

from __future__ import annotations

from flow.personal.model import PersonalModel

USES = {
    "onnx": "model.onnx is one step. Feed token 2 (`<bos>`) and zeros of the shape in sizes.json first, then every token with "
    "the state that came out. It gives the natural logarithms of the probabilities, the next state, and the weight of "
    "the client's own expert.",
    "torch": "`from model import load` gives a torch.nn.Module: tokens [B, T], the first of a text 2 (`<bos>`), in; natural "
    "logarithms of the probabilities and the next state out.",
}


def card(model: PersonalModel, format: str) -> str:
    """The content of model_card.md."""
    settings, report = model.settings, model.report
    own = settings["algorithm"]
    sizes = ", ".join(f"{name} {value}" for name, value in settings["model"].items() if value is not None)
    unit = "class" if model.classes else model.kept.cutting.vocabulary.unit
    options = ", ".join(f"{name} {value}" for name, value in own.items() if name != "name")
    lines = [
        f"# A personal model: {report['client']}",
        "",
        "## Use",
        "",
        USES[format],
        "",
        f"Predicts the next {unit}." if not model.classes else "Predicts the class of a text after its last token.",
        f"vocabulary.json has the tokens by number; texts are cut by {settings['texts']['tokenizer']!r}.",
        "",
        "## Data",
        "",
        f"Trained in a federated simulation on {settings['data']['name']}: {settings['data']['about']}.",
        f"Adapted with {report['train_tokens']} tokens of one client.",
        "",
        "## Algorithm",
        "",
        f"{own['name']} of flow {settings['flow']}, round {report['round']} of {report['rounds']}, with {options}.",
        f"Model: {sizes}.",
        "",
        "## Accuracy",
        "",
        "On the last fifth of the client's texts:",
        "",
        "| model | loss, nats | accuracy, % |",
        "| --- | --- | --- |",
    ]
    for name in ("general", "personal"):
        loss, accuracy = report[f"{name}_loss"], report[f"{name}_accuracy"]
        if loss is not None:
            lines.append(f"| {name} | {loss:.4f} | {100 * accuracy:.1f} |")
    if report["row"] is None:
        lines.append("| none | no token of them is known | |")
    return "\n".join([*lines, "", "## Privacy", "", report["private"].replace("This folder", "This model"), ""])
