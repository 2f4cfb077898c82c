-- A man in the middle, where the server sits: for `tillie demo session` only. What one of these people sends to another
-- goes, wrapped, to a component (XEP-0114), and what the component sends back is delivered, from whomever it says.
local st = require "util.stanza";
local bare = require "util.jid".bare;

local component = module:get_option_string("middle_component");
local people = module:get_option_set("middle_between", {});
local xmlns_forward, xmlns_client = "urn:xmpp:forward:0", "jabber:client";

local function take(event)
	local stanza = event.stanza;
	local from, to = bare(stanza.attr.from), bare(stanza.attr.to);
	if from == to or not (people:contains(from) and people:contains(to)) then return; end
	local taken = st.clone(stanza);
	taken.attr.xmlns = xmlns_client;
	module:send(st.message({ from = module.host, to = component })
		:tag("forwarded", { xmlns = xmlns_forward }):add_child(taken));
	return true;
end

-- Inside Prosody a stanza and its own children have no namespace of their own.
local function unwrap(element)
	if element.attr.xmlns ~= xmlns_client then return element; end
	element.attr.xmlns = nil;
	return element:maptags(unwrap);
end

local function give(event)
	local stanza = event.stanza;
	if stanza.attr.from ~= component then return; end
	local forwarded = stanza:get_child("forwarded", xmlns_forward);
	if forwarded and forwarded.tags[1] then
		module:send(unwrap(st.clone(forwarded.tags[1])));
	end
	return true;
end

for _, kind in ipairs({ "message", "presence", "iq" }) do
	for _, place in ipairs({ "bare", "full" }) do
		-- After the archive and the copies to other devices, as the last thing before delivery.
		module:hook("pre-" .. kind .. "/" .. place, take, -2);
	end
end
module:hook("message/host", give, 10);
