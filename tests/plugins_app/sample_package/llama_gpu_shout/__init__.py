"""A whole plugin: it answers in capitals, and wants to be spoken to aloud."""

from plugins_app.hookspecs import PluginInfo, Refused, hookimpl


class Shout:
    info = PluginInfo(
        id="shout",
        name="Shout",
        version="0.3.0",
        category="postprocessing",
        description="Answers in capitals",
        settings_schema={
            "type": "object",
            "properties": {"mark": {"type": "string", "maxLength": 3, "default": "!"}},
        },
    )

    @hookimpl
    def setup(self, settings):
        self.mark = settings["mark"]

    @hookimpl
    def prompt(self, prompt):
        if prompt.text == "whisper":
            raise Refused("Speak up.", field="text")

    @hookimpl
    def token_stream(self):
        return lambda text, is_last: (text.upper() + self.mark * is_last, "")
