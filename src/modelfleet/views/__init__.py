"""Read-only pictures drawn from several rooms, shared by all faces: `fleet_view`, `model_view`."""
