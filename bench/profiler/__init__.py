"""A node pack for the benchmark's server only: tells what each prompt spends its time on. It has no nodes."""


async def comfy_entrypoint():
    from .watch import ProfilerExtension  # late, because diffusers' process imports this package outside the host

    return ProfilerExtension()
