"""The method: schedules, mask, noising, loss, formulations and samplers, in jax alone."""
