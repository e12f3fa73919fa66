#pragma once

// The types of VK_EXT_layer_settings that ggml-vulkan.cpp uses without asking, for Vulkan headers that are older than
// the extension (Debian 12: 1.3.239). CMakeLists.txt includes this file in front of all others there. The extension
// itself is only enabled where validation is asked for and there.

#include <vulkan/vulkan_core.h>

#ifndef VK_EXT_layer_settings

#    include <vector>

namespace vk {

enum class LayerSettingTypeEXT { eBool32 = 0 };

struct LayerSettingEXT {
    const char *        pLayerName;
    const char *        pSettingName;
    LayerSettingTypeEXT type;
    uint32_t            valueCount;
    const void *        pValues;
};

struct LayerSettingsCreateInfoEXT {
    VkStructureType         sType = static_cast<VkStructureType>(1000496000);
    const void *            pNext = nullptr;
    uint32_t                settingCount;
    const LayerSettingEXT * pSettings;

    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings)
        : settingCount(static_cast<uint32_t>(settings.size())), pSettings(settings.data()) {}
};

} // namespace vk

#endif
