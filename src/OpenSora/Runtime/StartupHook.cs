using OpenSora.Runtime;

/// <summary>A startup hook, which the .NET runtime runs before <c>Main</c> in applications that reference the library. The runtime requires this
/// name, and a type in the global namespace.</summary>
/// <remarks>Source: dotnet/runtime, docs/design/features/host-startup-hook.md.</remarks>
#pragma warning disable MA0047 // The runtime expects the type in the global namespace.
internal static class StartupHook
{
    public static void Initialize() => NativeLibraries.Register();
}
