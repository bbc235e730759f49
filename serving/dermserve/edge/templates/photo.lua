-- Turns what people send into what the transcoder knows: a photo as the body takes the proto's route for it; short forms (tta,
-- version and label in the query; tta in JSON) become the proto's; a data: URL becomes JSON with its base64.
local TTA = { none = "TTA_MODE_NONE", full = "TTA_MODE_FULL", adaptive = "TTA_MODE_ADAPTIVE" }
local DATA_URL = "[dD][aA][tT][aA]:[%w%+%.%-/\\;=_ ]-;[bB][aA][sS][eE]64,"

local function long_forms(name, value)
  if name == "tta" then
    return "tta=" .. (TTA[string.lower(value)] or value)
  elseif name == "version" or name == "label" then
    return "model." .. name .. "=" .. value
  end
  return name .. "=" .. value
end

-- Replaces the start of a key's string value, where there is one that the pattern matches. No body is searched by pattern
-- as a whole: that takes long for 27 MB.
local function replace(text, key, pattern, with)
  local at = 1
  while true do
    local from, to = string.find(text, '"' .. key .. '"', at, true)
    if not from then
      return text
    end
    local _, last, found = string.find(text, '^%s*:%s*"(' .. pattern .. ")", to + 1)
    if last then
      return string.sub(text, 1, from - 1) .. '"' .. key .. '":"' .. with(found) .. string.sub(text, last + 1)
    end
    at = to + 1
  end
end

local function is_json(kind, start)
  if string.find(kind, "^image/") then
    return false
  end
  return string.find(kind, "json", 1, true) or string.find(start, "^%s*{")
end

local function long_forms_of_json(text)
  text = replace(text, "tta", "%a+", function(name)
    return TTA[string.lower(name)] or name
  end)
  return replace(text, "image", DATA_URL, function()
    return ""
  end)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path, query = string.match(headers:get(":path"), "^([^?]*)%?(.*)$")
  if query then
    query = string.gsub(query, "([^&=]+)=([^&]*)", long_forms)
    headers:replace(":path", path .. "?" .. query)
  else
    path = headers:get(":path")
  end
  local kind = string.lower(headers:get("content-type") or "")
  local body = handle:body(true) -- waits for all of it; what was got from the handle before is void afterwards
  local most, length = handle:filterContext():get("max_photo_bytes"), body:length()
  local start = body:getBytes(0, math.min(length, 256))
  local made
  if is_json(kind, start) then
    made = long_forms_of_json(body:getBytes(0, length))
    handle:headers():replace("x-dermserve-body", "json") -- for the message of an error (replies.yaml)
  else
    handle:headers():replace("x-dermserve-body", "photo")
    if length > most then
      return handle:respond({ [":status"] = "413" }, "")
    end
    local _, url = string.find(start, "^" .. DATA_URL)
    local base64 = url and string.match(body:getBytes(url, length - url), "^([%w+/=_-]*)%s*$")
    if not base64 then -- the route of the proto that takes a photo as it is
      handle:headers():replace(":path", path .. "Photo" .. (query and "?" .. query or ""))
      return
    end
    made = '{"image":"' .. base64 .. '"}'
  end
  handle:headers():replace("content-length", handle:body():setBytes(made))
  handle:headers():replace("content-type", "application/json")
  made, body, start = nil, nil, nil
  collectgarbage() -- or strings of megabytes stay until the next one
end
