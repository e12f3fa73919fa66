// What a caller passes is right or refused, however odd: handles that are NULL, texts nested without measure, parameters
// without bound. llama.cpp reads nested texts by functions that call themselves; here they have a small stack.
//
// usage: test_limits MODEL.gguf

#include "harness.h"
#include "text/grammar.h"
#include "text/nesting.h"
#include "text/sampler.h"

#include "json.h"
#include "kvf_error.h"
#include "llama-cpp.h"

#include <pthread.h>

#include <cmath>
#include <cstring>
#include <functional>

namespace {

const llama_vocab * vocab_of(const Model & model) {
    return llama_model_get_vocab(model.model.get());
}

std::string repeated(const std::string & text, size_t n) {
    std::string out;
    for (size_t i = 0; i < n; ++i) {
        out += text;
    }
    return out;
}

// in a thread with 1 MiB of stack, an eighth of what threads have as a rule
void on_a_small_stack(std::function<void()> work) {
    pthread_attr_t attributes;
    pthread_t      thread;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 1 << 20) == 0);
    const auto run = [](void * arg) -> void * {
        (*static_cast<std::function<void()> *>(arg))();
        return nullptr;
    };
    CHECK(pthread_create(&thread, &attributes, run, &work) == 0);
    CHECK(pthread_join(thread, nullptr) == 0);
    pthread_attr_destroy(&attributes);
}

void check_last_error(const char * name) {
    CHECK(kvf_last_error_kind() == KVF_ERROR_INVALID);
    if (!std::strstr(kvf_last_error(), name)) {
        std::fprintf(stderr, "expected \"%s\" in: %s\n", name, kvf_last_error());
        std::abort();
    }
}

void test_nothing_is_done_with_null(const Model & model) {
    kvf_event         event;
    const Tokens      tokens  = { 1, 2, 3 };
    const kvf_request request = make_request(tokens, 1);

    const auto refused = [](bool is_refused, const char * name) {
        CHECK(is_refused);
        check_last_error((std::string(name) + ": is NULL").c_str());
    };
    refused(!kvf_engine_create(nullptr, model.params(256, 64, 4), false, 0.0), "model");
    refused(!kvf_engine_set_lora(nullptr, nullptr, 1.0f), "engine");
    refused(!kvf_engine_clear(nullptr), "engine");
    refused(kvf_engine_stats(nullptr).cells_total == 0, "engine");
    refused(kvf_submit(nullptr, &request) == 0, "engine");
    refused(kvf_fork(nullptr, 1, 1) == 0, "engine");
    refused(kvf_poll(nullptr, &event, 1, 0) == -1, "engine");
    refused((kvf_engine_close(nullptr), true), "engine");
    refused((kvf_cancel(nullptr, 1), true), "engine");
    refused((kvf_end_run(nullptr, 1), true), "engine");
    refused(!kvf_chat_create(nullptr, "chatml"), "model");
    refused(!kvf_chat_capabilities(nullptr), "chat");
    refused(!kvf_chat_render(nullptr, "{}"), "chat");
    refused(kvf_tokenize(nullptr, "a", 1, nullptr, 0, nullptr, 0, true, true) < 0, "model");
    refused(!kvf_answer_create(nullptr), "format");
    refused(!kvf_answer_push(nullptr, "a", 1, false), "answer");
    kvf_engine_free(nullptr);
    kvf_chat_free(nullptr);
    kvf_answer_free(nullptr);
    kvf_string_free(nullptr);

    kvf_engine * engine = kvf_engine_create(model.model.get(), model.params(256, 64, 4), false, 0.0);
    CHECK(engine);
    refused(!kvf_engine_set_lora(engine, nullptr, 1.0f), "lora");
    refused(kvf_submit(engine, nullptr) == 0, "request");
    refused(kvf_poll(engine, nullptr, 1, 0) == -1, "events");
    CHECK(kvf_poll(engine, nullptr, 0, 0) == 0);
    kvf_request bad = request;
    bad.tokens      = nullptr;
    refused(kvf_submit(engine, &bad) == 0, "tokens");
    bad        = request;
    bad.n_stop = 1;
    refused(kvf_submit(engine, &bad) == 0, "stop");
    bad              = request;
    bad.n_logit_bias = 1;
    CHECK(kvf_submit(engine, &bad) == 0);
    check_last_error("n_logit_bias = 1: but logit_bias is NULL");
    kvf_engine_free(engine);

    kvf_chat * chat = kvf_chat_create(model.model.get(), nullptr); // NULL: the model's own
    CHECK(chat);
    refused(!kvf_chat_render(chat, nullptr), "request");
    char * rendered = kvf_chat_render(chat, R"({"messages": [{"role": "user", "content": "1"}]})");
    CHECK(rendered);
    const std::string format = common_json::parse(rendered).at("format").get<std::string>();
    kvf_string_free(rendered);
    kvf_chat_free(chat);
    kvf_answer * answer = kvf_answer_create(format.c_str());
    CHECK(answer);
    refused(!kvf_answer_push(answer, nullptr, 1, false), "text");
    char * nothing = kvf_answer_push(answer, nullptr, 0, true);
    CHECK(nothing && std::string(nothing) == "{}");
    kvf_string_free(nothing);
    kvf_answer_free(answer);
}

// the same, of a call; that it is refused needs no more than a small stack either
template <typename Body>
void check_refused(const char * name, Body body) {
    on_a_small_stack([&] {
        try {
            body();
        } catch (const kvf::Error & e) {
            CHECK(e.kind == KVF_ERROR_INVALID);
            if (!std::strstr(e.what(), name)) {
                std::fprintf(stderr, "expected \"%s\" in: %.500s\n", name, e.what());
                std::abort();
            }
            return;
        }
        std::fprintf(stderr, "not refused: %s\n", name);
        std::abort();
    });
}

void test_grammars_are_bounded(const Model & model) {
    const auto refused = [&](const char * name, const std::string & grammar) {
        check_refused(name, [&] { kvf::check_grammar(vocab_of(model), grammar, /* is_exact = */ true); });
    };
    const auto accepted = [&](const std::string & grammar) {
        on_a_small_stack([&] { kvf::check_grammar(vocab_of(model), grammar, /* is_exact = */ true); });
    };
    const auto chain = [](size_t n, const std::string & before, const std::string & after) {
        std::string grammar = "root ::= r0\n";
        for (size_t i = 0; i < n; ++i) {
            grammar += "r" + std::to_string(i) + " ::= " + before + "r" + std::to_string(i + 1) + after + "\n";
        }
        return grammar + "r" + std::to_string(n) + " ::= \"a\"\n";
    };
    for (const size_t n : { size_t(1), size_t(250) }) {
        accepted("root ::= " + repeated("(", n) + "\"a\"" + repeated(")", n));
    }
    for (const size_t n : { size_t(300), size_t(20000), size_t(1000000) }) { // 20,000 are the 40 KB
        refused("groups inside of one another", "root ::= " + repeated("(", n) + "\"a\"" + repeated(")", n));
        refused("groups inside of one another", "root ::= " + repeated("(", n));
    }
    accepted(chain(1000, "", ""));
    refused("begin with one another", chain(100000, "", ""));
    refused("begin with one another", chain(100000, "", "?"));
    accepted(chain(20000, "\"b\" ", "")); // they do not begin with one another
    accepted(chain(15, "", " | \"b\""));

    // each step has two ways, and a step of llama.cpp's own check for each way
    std::string doubling = "root ::= r0\n";
    for (int i = 0; i < 60; ++i) {
        const std::string next = "r" + std::to_string(i + 1);
        doubling += "r" + std::to_string(i) + " ::= " + next + " \"a\" | " + next + " \"b\"\n";
    }
    refused("can begin in more than", doubling + "r60 ::= \"c\"");

    refused("left recursion", "root ::= root \"a\" | \"b\"");
    refused("left recursion", "root ::= (root)* \"a\"");
    refused("left recursion", "root ::= x \"a\" | \"b\"\nx ::= root");
    // what precedes it may be nothing, which llama.cpp does not see and takes all the memory for
    refused("left recursion", "root ::= b root \"x\" | \"y\"\nb ::= d\nd ::= \"\" | \"z\"");
    refused("left recursion", "root ::= (\"z\"?)? (\"z\"*)* root \"x\" | \"y\"");
    accepted("root ::= (\"a\"*)*");
    accepted("root ::= ((\"a\" | \"b\"?)+)* \"c\"");
    accepted("root ::= \"(\" root \")\" | \"a\" # (((((((");
    accepted("root ::= [^\"\\]([{] \"\\\"(((\" [a-z]{2,7} .{3} \"x\"{0} <[5]> !<[6]>");
    accepted("root ::= item (\",\" item)* \"\\n\"\nitem ::=\n  [0-9]+ | \"(\" |\n  \"[\" root \"]\"");

    refused("characters and names, repetitions counted", "root ::= \"" + repeated("a", 10000) + "\"{2000}");
    refused("characters and names", "root ::= \"" + repeated("a", 2000000) + "\"");
    accepted("root ::= ((\"a\"{1000}){1000}){1000}");
    for (const char * count :
         { "{1000000}", "{2001}", "{2001,}", "{0,2001}", "{1, 5000}", "{1,1000000000}", "{18446744073709551617}" }) {
        const std::string grammar = std::string("root ::= \"a\"") + count;
        refused((std::string("grammar: ") + count + ": llama.cpp counts up to 2000").c_str(), grammar);
    }
    for (const char * count : { "{3,1}", "{3,0}", "{2, 1 }", "{2000,1999}" }) { // would be 2^64 rules
        const std::string grammar = std::string("root ::= \"a\"") + count;
        refused((std::string("grammar: ") + count + ": is at most less often than at least").c_str(), grammar);
    }
    for (const char * count : { "{2000}", "{0,2000}", "{7,}", "{3,3}", "{0,0}" }) {
        accepted(std::string("root ::= \"a\"") + count);
    }
    kvf::check_grammar(vocab_of(model), "root ::= \"a\"{1,5000}", /* is_exact = */ false);
    for (const char * broken : { "root",
                                 "root ::=",
                                 "root ::= \"a",
                                 "root ::= [a",
                                 "root ::= (\"a\"",
                                 "root ::= )",
                                 "root ::= *",
                                 "root ::= \"a\"{",
                                 "root ::= \"a\"{1,",
                                 "root ::= \"a\"{99999999999999999999}",
                                 "root ::= <",
                                 "root ::= !",
                                 "root ::= <[99999999999999999999]>",
                                 "leaf ::= \"a\"",
                                 "root ::= leaf",
                                 "::= \"a\"",
                                 "root ::= \"\\",
                                 "root ::= \"\\q\"",
                                 "%llguidance {}",
                                 "root ::= \xff\xfe" }) {
        if (std::strcmp(broken, "root ::=") != 0) { // that is an answer of nothing
            refused("grammar: ", broken);
        }
    }
}

void test_json_is_measured() {
    const auto depth = [](const char * text) { return kvf::json_depth(text); };
    CHECK(depth("") == 0 && depth("1") == 0 && depth("[]") == 1 && depth(R"({"a": [1, {}]})") == 3);
    CHECK(depth(R"(["[[[", "\"[[[", "\\", []])") == 2);
    CHECK(depth("]]][") == 1);

    const auto answer = [](const char * text) { return kvf::answer_depth(text); };
    CHECK(answer("") == 0 && answer("it's [1]") == 1);
    CHECK(answer(R"(<call>{"a": ["]]]", [["]"]]]})") >= 4);
    CHECK(answer(R"(a " quote <call>{"a": ["]]]", [["]"]]]})") >= 4); // the quote may be none of JSON's
    CHECK(answer(R"(\" <call>{"a": ["]]]", [["]"]]]})") >= 4);
    CHECK(answer(R"(<call>f(a=[']]]', [[']']]]))") >= 3);
    CHECK(answer("[1, 2], [3, 4], {}, [[5]]") == 2);
}

const char * const with_tools =
    "{% for m in messages %}{{ m.role + m.content }}{% for c in m.tool_calls %}"
    "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}";

std::string ask(const std::string & options) {
    return R"({"messages": [{"role": "user", "content": "1"}], )" + options + "}";
}

std::string with_parameters(const std::string & schema) {
    return ask(R"("tools": [{"type": "function", "function": {"name": "add", "description": "", "parameters": )" +
               schema + "}}]");
}

void test_requests_to_render_are_bounded(const Model & model) {
    const std::unique_ptr<kvf_chat, void (*)(kvf_chat *)> chats[] = {
        { kvf_chat_create(model.model.get(), "chatml"), kvf_chat_free },
        { kvf_chat_create(model.model.get(), with_tools), kvf_chat_free },
    };
    const auto nested  = [](size_t n) { return repeated("[", n) + repeated("]", n); };
    const auto objects = [](size_t n) {
        return repeated(R"({"type": "object", "properties": {"a": )", n) + "{}" + repeated("}}", n);
    };
    const auto definitions = [](size_t n) {
        std::string text = R"({"$ref": "#/$defs/d0", "$defs": {)";
        for (size_t i = 0; i < n; ++i) {
            text += "\"d" + std::to_string(i) + R"(": {"$ref": "#/$defs/d)" + std::to_string(i + 1) + "\"},";
        }
        return text + "\"d" + std::to_string(n) + R"(": {"type": "string"}}})";
    };
    const auto properties = [](size_t n) {
        std::string text = R"({"type": "object", "properties": {"p": {})";
        for (size_t i = 0; i < n; ++i) {
            text += ", \"p" + std::to_string(i) + "\": {}";
        }
        return text + "}}";
    };
    const auto call = [](const std::string & arguments) {
        return R"({"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "", "tool_calls": [)"
               R"({"type": "function", "id": "a", "function": {"name": "add", "arguments": ")" +
               arguments + R"("}}]}]})";
    };
    for (const auto & chat : chats) {
        CHECK(chat);
        const auto rendered = [&](const std::string & request) {
            on_a_small_stack([&] {
                char * text = kvf_chat_render(chat.get(), request.c_str());
                if (!text) {
                    std::fprintf(stderr, "refused: %.500s\n", kvf_last_error());
                    std::abort();
                }
                kvf_string_free(text);
            });
        };
        const auto refused = [&](const char * name, const std::string & request) {
            on_a_small_stack([&] {
                CHECK(!kvf_chat_render(chat.get(), request.c_str()));
                check_last_error(name);
            });
        };
        rendered(with_parameters(R"({"type": "object", "default": )" + nested(240) + "}"));
        rendered(with_parameters(objects(100)));
        rendered(ask(R"("json_schema": )" + objects(100)));
        rendered(ask(R"("json_schema": )" + definitions(200)));
        rendered(with_parameters(properties(200)));
        rendered(call(R"({\"a\": )" + nested(200) + "}"));
        for (const size_t n : { size_t(300), size_t(100000) }) {
            refused("nested", nested(n));
            refused("nested", ask(R"("json_schema": {"default": )" + nested(n) + "}"));
            refused("nested", ask(R"("chat_template_kwargs": {"a": )" + nested(n) + "}"));
            refused("nested", with_parameters(R"({"type": "object", "default": )" + nested(n) + "}"));
            refused("nested", with_parameters(objects(n)));
            refused("nested", R"({"messages": [{"role": "user", "content": )" + nested(n) + "}]}");
            refused("arguments: is JSON nested", call(R"({\"a\": )" + nested(n) + "}"));
            refused("arguments: is JSON nested", call(repeated(R"({\"a\": )", n)));
        }
        refused("levels; make it flatter", ask(R"("json_schema": )" + definitions(10000)));
        refused("levels; make it flatter", with_parameters(properties(10000)));
        for (const char * odd :
             { "null", "[]", "1", "\"\"", R"({"messages": null})", R"({"messages": [null]})",
               R"({"messages": [], "tools": [null]})", R"({"messages": [], "tools": [{"function": 1}]})",
               R"({"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]})",
               R"({"messages": [{"role": 1, "content": []}]})" }) {
            CHECK(!kvf_chat_render(chat.get(), odd) && kvf_last_error_kind() == KVF_ERROR_INVALID);
        }
    }
}

void test_templates_are_bounded(const Model & model) {
    const auto accepted = [&](const std::string & source) {
        on_a_small_stack([&] {
            kvf_chat * chat = kvf_chat_create(model.model.get(), source.c_str());
            CHECK(chat);
            kvf_chat_free(chat);
        });
    };
    const auto refused = [&](const char * name, const std::string & source) {
        on_a_small_stack([&] {
            CHECK(!kvf_chat_create(model.model.get(), source.c_str()));
            check_last_error(name);
        });
    };
    const std::string content = "{{ messages[0].content }}";
    const auto blocks   = [&](size_t n) { return repeated("{% if true %}", n) + content + repeated("{% endif %}", n); };
    const auto branches = [&](size_t n) {
        return "{% if false %}" + repeated("{% elif false %}b", n) + "{% else %}" + content + "{% endif %}";
    };
    accepted(blocks(60));
    accepted(branches(60));
    accepted(repeated(blocks(2) + branches(2) + "{% set a = 1 %}{% set b %}b{% endset %}{# [[[[ #}", 200));
    accepted("{{ " + repeated("(", 60) + "messages[0].content" + repeated(")", 60) + " }}");
    accepted("{{ messages[0].content" + repeated(" + 'a'", 200) + " }}");
    for (const size_t n : { size_t(600), size_t(100000) }) {
        refused("blocks inside of one another", blocks(n));
        refused("branches of an if", branches(n));
        refused("brackets inside", "{{ " + repeated("(", n) + "1" + repeated(")", n) + " }}");
        refused("brackets inside", "{{ " + repeated("[", n) + repeated("]", n) + " }}");
        refused("brackets inside", "{% set a = " + repeated("{'a':", n) + "1" + repeated("}", n) + " %}");
        for (const char * part : { "+1", ".a", "|trim", " if 0 else 1", "()", "[0]", " and 1", " is string" }) {
            refused("many words and signs", "{{ a" + repeated(part, n) + " }}");
        }
        refused("many words and signs", "{{ " + repeated("not ", n) + "1 }}");
        refused("many words and signs", "{{ " + repeated("- ", n) + "1 }}");
    }
}

// A template is a program: it may call itself, or go on and on.
void test_templates_end(const Model & model) {
    const std::string content = "{% for m in messages %}{{ m.content }}{% endfor %}";
    const auto        refused = [&](const std::string & source) {
        on_a_small_stack([&] { // when it is read, where it is tried out, or when it is first used
            kvf_chat * chat = kvf_chat_create(model.model.get(), source.c_str());
            if (chat) {
                CHECK(!kvf_chat_render(chat, ask(R"("enable_thinking": true)").c_str()));
                kvf_chat_free(chat);
            }
            check_last_error("chat_template: runs into");
        });
    };
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}" + content);
    refused("{% macro f(n) %}{{ g(n) }}{% endmacro %}{% macro g(n) %}{% if n %}{{ f(n) }}{% endif %}{% endmacro %}" +
            content + "{{ f(messages) }}");
    refused(content + "{% for i in range(1000000000) %}a{% endfor %}");
    refused(content + "{% for i in range(0, -9000000000000000000, -1) %}a{% endfor %}");
    refused(content + "{% for i in range(5000) %}{% for j in range(5000) %}{% set a = j %}{% endfor %}{% endfor %}");
    refused(content + "{{ 'ab' * 1000000000 }}");
    refused(content + "{{ 'a' | indent(100000000000, true) }}");
    refused("{% set ns = namespace(t='ab') %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}" +
            content);
    refused("{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}" +
            content);
    refused("{% set ns = namespace(t=1) %}{% for i in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}" + content +
            "{{ ns.t }}");
    refused(content + "{% for i in range(3000000) %}{% endfor %}");
    refused(content + "{% for i in range(0, 9223372036854775807, 9223372036854775806) %}{% endfor %}");
    refused(content + "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}");
    refused(content + "{{ ('a' * 100000) | replace('', 'b' * 100000) }}");
    refused(content + "{{ range(100000) | join('b' * 100000) }}");
    refused(content + "{{ ('a\n' * 100000) | indent(100000) }}");
    refused(content + "{{ [[1]] | tojson(indent=1000000000) }}");
#ifndef __SANITIZE_ADDRESS__ // who contains himself is never given back
    refused("{% set l = [] %}{% set x = l.append(l) %}" + content + "{{ l }}");
    refused("{% set l = [] %}{% set x = l.append(l) %}" + content + "{{ l | tojson }}");
    refused("{% set ns = namespace() %}{% set ns.a = ns %}" + content + "{{ ns.a | tojson }}");
#endif

    // what is deep without being read is destroyed without a stack as deep
    on_a_small_stack([&] {
        const std::string deep =
            "{% set ns = namespace(l=[]) %}{% for i in range(1500) %}{% set ns.l = [[[[[[[[ns.l]]]]]]]] %}{% endfor %}";
        kvf_chat * chat = kvf_chat_create(model.model.get(), (deep + content).c_str());
        CHECK(chat);
        kvf_chat_free(chat);
    });
    on_a_small_stack([&] {
        kvf_chat * chat = kvf_chat_create(model.model.get(), (content + "{{ 7 is divisibleby 0 }}").c_str());
        CHECK(!chat || !kvf_chat_render(chat, ask(R"("enable_thinking": true)").c_str()));
        check_last_error("division by zero");
        kvf_chat_free(chat);
    });

    // but what does end may take its time, and call itself
    on_a_small_stack([&] {
        const std::string countdown = "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{{ n }}{% endmacro %}";
        kvf_chat *        chat =
            kvf_chat_create(model.model.get(),
                            (countdown + "{{ f(30) }}{% for i in range(2000) %}{{ i }}{% endfor %}" + content).c_str());
        CHECK(chat);
        char * rendered = kvf_chat_render(chat, ask(R"("enable_thinking": true)").c_str());
        CHECK(rendered && std::strstr(rendered, "012345678910111213") && std::strstr(rendered, "19981999"));
        kvf_string_free(rendered);
        kvf_chat_free(chat);
    });
}

// A grammar that can be read in ever more ways ends its branch, and no other.
void test_ambiguous_grammars_end(const Model & model) {
    kvf_engine * engine = kvf_engine_create(model.model.get(), model.params(256, 64, 4), false, 0.0);
    CHECK(engine);
    const Tokens tokens    = { 1, 2, 3 };
    const auto   submitted = [&](const char * grammar) {
        kvf_request request          = make_request(tokens, 60);
        request.grammar              = grammar;
        request.sampling.temperature = 1.0f;
        const kvf_branch_id id       = kvf_submit(engine, &request);
        CHECK(id > 0);
        return id;
    };
    // a choice for each byte: none of them can be left out of account before the end
    const kvf_branch_id doubling = submitted("root ::= s\ns ::= . s \"b\" | . s \"c\" | . s \"d\"");
    const kvf_branch_id plain    = submitted("root ::= .*");
    const kvf_branch_id counting = submitted("root ::= s\ns ::= . s \"b\" | . s"); // as many ways as characters
    size_t              n_ended  = 0;
    while (n_ended < 3) {
        kvf_event event;
        CHECK(kvf_poll(engine, &event, 1, 60000) == 1);
        if (event.type != KVF_EVENT_DONE) {
            continue;
        }
        ++n_ended;
        if (event.branch_id == doubling) {
            CHECK(event.finish == KVF_FINISH_ERROR);
            CHECK(std::string(event.text, event.n_text).find("the grammar is too ambiguous") != std::string::npos);
        } else {
            CHECK(event.branch_id == plain || event.branch_id == counting);
            CHECK(event.finish == KVF_FINISH_LENGTH);
        }
    }
    kvf_engine_free(engine);
}

void test_answers_are_bounded(const Model & model) {
    const std::unique_ptr<kvf_chat, void (*)(kvf_chat *)> chat(kvf_chat_create(model.model.get(), "chatml"),
                                                               kvf_chat_free);
    char * rendered = kvf_chat_render(chat.get(), with_parameters(R"({"type": "object"})").c_str());
    CHECK(rendered);
    const std::string format = common_json::parse(rendered).at("format").get<std::string>();
    kvf_string_free(rendered);

    const auto read = [&](const std::string & text) {
        std::string out;
        on_a_small_stack([&] {
            kvf_answer * answer = kvf_answer_create(format.c_str());
            CHECK(answer);
            char * delta = kvf_answer_push(answer, text.data(), text.size(), true);
            CHECK(delta);
            out = delta;
            kvf_string_free(delta);
            kvf_answer_free(answer);
        });
        return common_json::parse(out);
    };
    const std::string start = "<tool_call>\n{\"name\": \"add\", \"arguments\": ";
    const std::string call  = start + R"({"a": [[[")" + repeated("]", 300) + "\"]]]}}\n</tool_call>";
    CHECK(read(call).at("tool_calls").size() == 1);
    for (const char * level : { "[", "{\"a\": ", "{\"a\": [\"]]]]\", " }) {
        const std::string deep = start + repeated(level, 100000);
        CHECK(read(deep).at("content").get<std::string>() == deep); // as any text that is not what it should be
    }

    for (const size_t n : { size_t(10), format.size() / 2, format.size() - 3 }) {
        std::string changed = format;
        changed[n]          = changed[n] == 'x' ? 'y' : 'x';
        CHECK(!kvf_answer_create(changed.c_str()));
        check_last_error("format: is not what kvf_chat_render returned");
        CHECK(!kvf_answer_create(format.substr(0, n).c_str()));
    }
    for (const char * odd : { "", "null", "[]", "{}", "\"\"" }) {
        CHECK(!kvf_answer_create(odd));
    }
    CHECK(!kvf_answer_create(repeated("[", 100000).c_str()));
}

void test_parameters_are_bounded(const Model & model) {
    kvf_engine * engine = kvf_engine_create(model.model.get(), model.params(256, 64, 4), false, 0.0);
    CHECK(engine);
    const Tokens      tokens  = { 1, 2, 3 };
    const kvf_request good    = make_request(tokens, 4);
    kvf_request       request = good;
    const auto        refused = [&](const char * name) {
        CHECK(kvf_submit(engine, &request) == 0);
        check_last_error(name);
        request = good;
    };
    for (const float bad : { NAN, INFINITY, -INFINITY, 1e30f, -1e30f }) {
        request.sampling.presence_penalty = bad;
        refused("presence_penalty");
        request.sampling.frequency_penalty = bad;
        refused("frequency_penalty");
        request.sampling.repeat_penalty = bad;
        refused("repeat_penalty");
        if (bad != -INFINITY) {
            const llama_logit_bias bias = { 1, bad };
            request.logit_bias          = &bias;
            request.n_logit_bias        = 1;
            refused("logit_bias: bias");
        }
    }
    request.sampling.repeat_penalty = 1e-30f;
    refused("repeat_penalty");
    const llama_logit_bias twice[] = { { 1, 1.0f }, { 1, 2.0f } };
    request.logit_bias             = twice;
    request.n_logit_bias           = 2;
    refused("token = 1: is there twice");

    const std::string               longest(4096, 'a');
    const std::string               longer(4097, 'a');
    const std::vector<const char *> many(257, "a");
    const char *                    stop = longer.c_str();
    request.stop                         = &stop;
    request.n_stop                       = 1;
    refused("stop[0]: has 4097 bytes");
    request.stop   = many.data();
    request.n_stop = many.size();
    refused("n_stop = 257");
    stop           = longest.c_str();
    request.stop   = &stop;
    request.n_stop = 1;
    CHECK(kvf_submit(engine, &request) > 0);

    // what has no bound of its own has that of the context
    request                         = good;
    request.sampling.repeat_last_n  = INT32_MAX;
    request.sampling.repeat_penalty = 1.1f;
    CHECK(kvf::sampling_params(vocab_of(model), request, 257).penalty_last_n == 257);
    CHECK(kvf_submit(engine, &request) > 0);
    request                      = good;
    request.sampling.temperature = 1e-40f; // the smallest numbers make no infinite ones
    CHECK(kvf_submit(engine, &request) > 0);
    kvf_engine_free(engine);
}

} // namespace

int main(int argc, char ** argv) {
    CHECK(argc == 2);
    const Model model(argv[1]);
    kvf_set_log_level(GGML_LOG_LEVEL_NONE);
    test_nothing_is_done_with_null(model);
    test_grammars_are_bounded(model);
    test_json_is_measured();
    test_requests_to_render_are_bounded(model);
    test_templates_are_bounded(model);
    test_templates_end(model);
    test_ambiguous_grammars_end(model);
    test_answers_are_bounded(model);
    test_parameters_are_bounded(model);
}
