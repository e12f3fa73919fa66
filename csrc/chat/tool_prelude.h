#pragma once

namespace kvf {

// Jinja to go in front of a chat template that knows nothing of tools. It rewrites the messages into ones that the
// template knows: the tools become text of a system message, calls become text of the answer that made them, and
// results become a user's message. The form is the one that Hermes and Qwen models have made common, so llama-common
// finds it out, as it does for any template, and brings grammar and parser for it.
//
// tools_role says where the tools go: "system", or "user" if the template takes no system message.
inline constexpr const char * tool_prelude = R"jinja(
{%- if tools %}
    {%- set ns = namespace(text='You can call functions. They are described here, in JSON, between <tools> and </tools>:\n<tools>') %}
    {%- for tool in tools %}
        {%- set ns.text = ns.text + '\n' + (tool | tojson) %}
    {%- endfor %}
    {%- set ns.text = ns.text + '\n</tools>\nTo call a function, write a JSON object with its name and arguments between <tool_call> and </tool_call>:\n<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>' %}
    {%- if messages and messages[0].role == tools_role %}
        {%- set first = {'role': tools_role, 'content': (messages[0].content + '\n\n' + ns.text) if tools_role == 'system' else (ns.text + '\n\n' + messages[0].content)} %}
        {%- set messages = [first] + messages[1:] %}
    {%- else %}
        {%- set messages = [{'role': tools_role, 'content': ns.text}] + messages %}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(messages=[], results='') %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- set ns.results = ns.results + ('\n' if ns.results else '') + '<tool_response>\n' + message.content + '\n</tool_response>' %}
        {%- if loop.last or loop.nextitem.role != 'tool' %}
            {%- set ns.messages = ns.messages + [{'role': 'user', 'content': ns.results}] %}
            {%- set ns.results = '' %}
        {%- endif %}
    {%- elif message.tool_calls %}
        {%- set ns.text = message.content if message.content else '' %}
        {%- for call in message.tool_calls %}
            {%- set ns.text = ns.text + ('\n' if ns.text else '') + '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments if call.function.arguments is string else call.function.arguments | tojson) + '}\n</tool_call>' %}
        {%- endfor %}
        {%- set ns.messages = ns.messages + [{'role': 'assistant', 'content': ns.text}] %}
    {%- else %}
        {%- set ns.messages = ns.messages + [message] %}
    {%- endif %}
{%- endfor %}
{%- set messages = ns.messages %}
)jinja";

} // namespace kvf
