using OpenSora.Runtime;

/// <summary>Run by the .NET runtime before <c>Main</c> in programs that reference the library; the name and the place in no namespace are the
/// runtime's rules.</summary>
/// <remarks>Source: dotnet/runtime, docs/design/features/host-startup-hook.md.</remarks>
#pragma warning disable MA0047 // The runtime looks for the type in no namespace.
internal static class StartupHook
{
    public static void Initialize() => NativeLibraries.Register();
}
