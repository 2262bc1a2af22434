"""Objects of frameworks that keep models in formats of their own: CatBoost, PyTorch, Keras, ONNX.

They are written as their framework writes them; the rest is as for a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfleet.client.errors import ClientError
from modelfleet.client.saving import objects
from modelfleet.client.saving.drafts import Code, Draft
from modelfleet.client.saving.formats import code_options, keras_backend, xgboost_distribution
from modelfleet.client.saving.installed import pinned


def draft(model: Any, code: Code, rows: Mapping[str, object] | None, folder: Path) -> Draft:
    """TypeError for an object that nobody here knows."""
    modules = {cls.__module__.split(".")[0] for cls in type(model).__mro__}
    files = folder / "files"
    if "catboost" in modules:
        model.save_model(str(files / "model.cbm"))
        return Draft(folder, "catboost", "model.cbm", pinned("numpy", "catboost"))
    if "xgboost" in modules or "lightgbm" in modules:
        return _boosted(model, folder)
    if "keras" in modules:
        return _keras(model, code, folder)
    if "torch" in modules:
        return _torch(model, code, rows, folder)
    if type(model).__name__ == "ModelProto" and hasattr(model, "SerializeToString"):
        (files / "model.onnx").write_bytes(model.SerializeToString())
        return Draft(folder, "onnx", "model.onnx", pinned("numpy", "onnxruntime"))
    raise TypeError(
        f"{type(model).__name__} can't be saved: it is no scikit-learn, LightGBM, XGBoost, "
        "CatBoost, PyTorch, Keras or ONNX model and has no "
        "predict(dict of arrays) -> dict of arrays."
    )


def _boosted(model: Any, folder: Path) -> Draft:
    """A booster, or an estimator that was fitted on a frame with categories."""
    options: dict[str, object] = {}
    if hasattr(model, "predict_proba"):
        options["classes"] = model.classes_.tolist()
    if hasattr(model, "get_booster"):
        options |= objects.rounds_of(model)
    booster = getattr(model, "booster_", None) or objects.booster_of(model)
    if type(booster).__module__.startswith("lightgbm"):
        booster.save_model(str(folder / "files" / "model.txt"))
        return Draft(folder, "lightgbm", "model.txt", pinned("numpy", "lightgbm"), options)
    booster.save_model(str(folder / "files" / "model.ubj"))
    return Draft(folder, "xgboost", "model.ubj", pinned("numpy", xgboost_distribution()), options)


def _keras(model: Any, code: Code, folder: Path) -> Draft:
    model.save(folder / "files" / "model.keras")
    options: dict[str, object] = {}
    if code.source is not None:
        options["source"] = code.copy_into(folder / "files")
    needed = pinned("numpy", keras_backend(), "keras")
    return Draft(folder, "keras", "model.keras", needed, options)


def _torch(model: Any, code: Code, rows: Mapping[str, object] | None, folder: Path) -> Draft:
    import torch  # type: ignore[import-not-found,unused-ignore]

    files = folder / "files"
    needed = pinned("numpy", "torch")
    if isinstance(model, torch.jit.ScriptModule):
        torch.jit.save(model, str(files / "model.pt"))
        return Draft(folder, "torch", "model.pt", needed, {"form": "script"})
    if isinstance(model, torch.export.ExportedProgram):
        torch.export.save(model, str(files / "model.pt2"))
        return Draft(folder, "torch", "model.pt2", needed, {"form": "export"})
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{type(model).__name__} is no PyTorch module.")
    if code.source is not None:
        named = Code(code.source, code.class_name or type(model).__name__, code.arguments)
        torch.save(model.state_dict(), str(files / "model.pt"))
        options = {"form": "state_dict", **code_options(named, folder)}
        return Draft(folder, "torch", "model.pt", needed, options)
    torch.export.save(_exported(torch, model, rows), str(files / "model.pt2"))
    return Draft(folder, "torch", "model.pt2", needed, {"form": "export"})


def _exported(torch: Any, model: Any, rows: Mapping[str, Any] | None) -> Any:
    """The module with a variable number of rows."""
    if rows is None:
        raise ClientError("A PyTorch module needs an example of its inputs.")
    floats = next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.float32)
    given = [torch.from_numpy(array[:4].copy()) for array in rows.values()]
    given = [one.to(floats) if one.dtype.is_floating_point else one for one in given]
    if any(len(one) < 2 for one in given):
        raise ClientError("An example for a PyTorch module needs two rows or more.")
    shapes = tuple({0: torch.export.Dim.AUTO} for _ in given)
    was = model.training
    try:
        return torch.export.export(model.eval(), tuple(given), dynamic_shapes=shapes)
    except Exception as error:  # the exporter raises anything
        raise ClientError(
            f"torch.export can't take {type(model).__name__}: {str(error).strip()[:300]} "
            "Pass torch.jit.script(module), or the Python file of its class as source."
        ) from error
    finally:
        model.train(was)
