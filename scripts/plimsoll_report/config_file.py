"""config.toml of a run, which plimsoll resolved and wrote itself: sections and one 'key = value' per line."""


def parse_config(text):
    """-> {"section.key": text of the value}."""
    config, section = {}, ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[] ")
        elif "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            key = f"{section}.{key.strip()}" if section else key.strip()
            config[key] = value.split(" #")[0].strip().strip("'\"")
    return config
