-- What people would send becomes what the transcoder knows.
-- The query's short forms (tta, version, label) become the proto's names. A photo that is the whole body (max_photo_bytes
-- is set) becomes JSON.
local TTA = { none = "TTA_MODE_NONE", full = "TTA_MODE_FULL", adaptive = "TTA_MODE_ADAPTIVE" }

local function long_forms(name, value)
  if name == "tta" then
    return "tta=" .. (TTA[string.lower(value)] or value)
  elseif name == "version" or name == "label" then
    return "model." .. name .. "=" .. value
  end
  return name .. "=" .. value
end

function envoy_on_request(handle)
  local path, query = string.match(handle:headers():get(":path"), "^([^?]*)%?(.*)$")
  if query then
    handle:headers():replace(":path", path .. "?" .. string.gsub(query, "([^&=]+)=([^&]*)", long_forms))
  end
  local most = handle:filterContext():get("max_photo_bytes")
  if not most then
    return
  end
  local body = handle:body(true) -- waits for all of it; what was got from the handle before is void afterwards
  if body:length() > most then
    handle:respond({ [":status"] = "413" }, "")
    return
  end
  local length = body:setBytes('{"image":"' .. handle:base64Escape(body:getBytes(0, body:length())) .. '"}')
  handle:headers():replace("content-length", length)
  handle:headers():replace("content-type", "application/json")
end
